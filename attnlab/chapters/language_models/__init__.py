"""Chapter 04: its pictures, its judges, its quiz."""
