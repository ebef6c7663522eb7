"""A page that shows what one space is good for: search, where a phrase is, and a map."""
