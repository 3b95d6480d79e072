"""The provider's side of first contact: PENDING_ACTIVATION becomes ACTIVE for what the line is connecting now."""
