"""Chapter 03: its pictures, its judges, its quiz."""
