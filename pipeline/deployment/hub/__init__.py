"""A student as the Hugging Face Hub keeps models: folder, card and upload."""
