"""The sync of playlists beside a loop and beside SQL written by hand."""
