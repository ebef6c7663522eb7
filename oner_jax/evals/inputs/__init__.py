"""What tasks work on: captions, prompts, scenes, corruptions, features and heat maps."""
