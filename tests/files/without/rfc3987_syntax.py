"""As if it were not installed: jsonschema loads it when nbformat is loaded, and its grammar takes seconds to build."""

raise ImportError
