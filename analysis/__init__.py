"""Pictures and tables from the traces of chipline runs: python3 -m analysis --help."""
