"""Status to colours, and the lights that show them; one driver a file, all held by a guardian process of their own."""
