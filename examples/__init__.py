"""Programs that show the library in use; the tests run each of them."""
