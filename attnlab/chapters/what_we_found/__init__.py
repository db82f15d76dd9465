"""Chapter 14: its pictures, its judges, its quiz."""
