"""Running TaskFlow: the embedded stack on one machine, the gateway's configuration, backups, the demo."""
