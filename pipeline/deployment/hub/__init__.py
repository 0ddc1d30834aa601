"""Export to the Hugging Face Hub: folder, card and upload."""
