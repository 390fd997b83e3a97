"""The one door to the Kubernetes API: connection, requests, watches.

Used by the ``kubernetes`` record store (:mod:`csi_driver.cinderlib.persistence`) and by
``cli``, which injects it into nodes and leaders.  Works on plain JSON objects over
urllib3, which os-brick loads anyway: the official client's 700 typed models cost 38 MiB
and 0.4 s of CPU in every process and would be used for nothing.  Only
:mod:`csi_driver.kube.kubeconfig` imports that client, to understand kubeconfig files.
"""
