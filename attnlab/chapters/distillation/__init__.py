"""Chapter 08: its pictures, its judges, its quiz."""
