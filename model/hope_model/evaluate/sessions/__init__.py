"""Sessions that are measured: in this process or on a server, behind one interface."""
