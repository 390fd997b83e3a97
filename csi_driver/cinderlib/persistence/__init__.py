"""Record stores behind one interface: memory and database."""
