"""The relay of event logs over Redis or Valkey."""
