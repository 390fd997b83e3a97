"""The gRPC edge: a servicer per CSI service, the server, the client and the one error table."""
