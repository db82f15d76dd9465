"""Chapter 06: its pictures, its judges, its quiz."""
