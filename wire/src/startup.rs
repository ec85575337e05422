//! What a client sends before the first regular message.
