"""What a stage optimises: next tokens (lm), an encoder pretrained by attention (aed)."""
