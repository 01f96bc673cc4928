"""Where labelled examples come from: files, folders and the built-in demo; and what is wrong with them."""
