"""Chapter 12: its pictures, its records, its judges, its quiz."""
