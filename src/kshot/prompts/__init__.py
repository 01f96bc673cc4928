"""Prompts: from a task, demonstrations and a query to segments."""
