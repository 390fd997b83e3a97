"""The one door to the Kubernetes API; empty until records live in a cluster."""
