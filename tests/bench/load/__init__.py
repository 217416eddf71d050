"""The load generator: processes of their own, which check every answer. The same ones for the product and its floor."""
