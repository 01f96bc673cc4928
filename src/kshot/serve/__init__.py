"""An adapted model over HTTP: as a decision endpoint, as an OpenAI server, as a page."""
