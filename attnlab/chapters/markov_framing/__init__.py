"""Chapter 01: its pictures, its judges, its quiz."""
