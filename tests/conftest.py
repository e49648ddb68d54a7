from hypothesis import settings

# The first example of a test may compile a kernel.
settings.register_profile("ropesearch", deadline=None, print_blob=True)
settings.load_profile("ropesearch")
