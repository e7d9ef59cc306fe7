"""What a stage optimises: next tokens (lm), an encoder by attention (aed), codec and Talker."""
