"""Chapter 00: its pictures, its judges, its quiz."""
