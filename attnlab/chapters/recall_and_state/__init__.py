"""Chapter 11: what a state can hold, why recall needs memory, languages in context."""
