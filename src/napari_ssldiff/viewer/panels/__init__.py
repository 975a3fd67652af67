"""The dock widget's parts: views only, each over one piece of the state."""
