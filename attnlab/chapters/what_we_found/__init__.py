"""Chapter 10: its pictures, its judges, its quiz."""
