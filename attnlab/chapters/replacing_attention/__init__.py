"""Chapter 09: its pictures, its judges, its quiz."""
