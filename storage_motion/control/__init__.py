"""What decides: arguments, plan, phases, gate, journal."""
