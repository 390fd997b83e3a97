"""The object layer: Backend, Volume, Snapshot, Connection over any Cinder driver."""
