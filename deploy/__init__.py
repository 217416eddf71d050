"""How TaskFlow is started: the embedded stack on one machine, the gateway's configuration, the demo."""
