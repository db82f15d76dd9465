"""Chapter 02: its pictures, its judges, its quiz."""
