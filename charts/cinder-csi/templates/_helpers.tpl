{{- define "cinder-csi.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 43 | trimSuffix "-" -}}
{{- end -}}

{{- define "cinder-csi.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "cinder-csi.controller" -}}
{{- default (printf "%s-controller" (include "cinder-csi.name" .)) .Values.serviceAccounts.controller -}}
{{- end -}}

{{- define "cinder-csi.node" -}}
{{- default (printf "%s-node" (include "cinder-csi.name" .)) .Values.serviceAccounts.node -}}
{{- end -}}

{{- define "cinder-csi.labels" -}}
labels:
  app.kubernetes.io/name: cinder-csi
  app.kubernetes.io/instance: {{ .Release.Name }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
