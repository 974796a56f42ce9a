"""The revisions of the schema, oldest first; one that has been released is never changed."""
