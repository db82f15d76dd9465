"""Chapter 05: its pictures, its judges, its quiz."""
