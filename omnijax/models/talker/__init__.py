"""The Talker: text in, codec frames out, in one stream."""
