"""Pure steps over episodes: fields, actions, timing, quality, language. Each is small, named and versioned."""
