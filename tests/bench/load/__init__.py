"""The load generator: separate processes that check every answer, the same for the product and the floor."""
