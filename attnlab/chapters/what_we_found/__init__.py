"""Chapter 13: its pictures, its judges, its quiz."""
