"""What a stage optimises: next tokens (lm), an encoder by attention (aed), the codec, the Talker."""
