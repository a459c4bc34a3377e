"""From a teacher's file to a trained student: what ``mipkd distill`` resolves, prepares, writes, trains and shows."""
