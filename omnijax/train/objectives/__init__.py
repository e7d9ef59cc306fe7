"""What a stage optimises: next tokens (lm), transcription by attention (aed)."""
