"""What every room may use: error base, immutable values, sealing, in-flight calls.

Nothing here knows gRPC, Cinder, Kubernetes or a record store, so that the node
room, which must stay small, can use all of it.
"""
