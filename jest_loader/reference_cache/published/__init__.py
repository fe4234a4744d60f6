"""Embeddings that somebody else computed, as they are stored.

published    PublishedEmbeddings: the parts of a folder, or a source of batches, as one table
  layouts    which files of a folder are a part: clip-retrieval's, and .npz beside .parquet
  parts      a part: its ids, and its rows, a run at a time
  stored     an array of a .npy file or an .npz member, its header checked first
  id_table   a column of ids of a parquet file
joined       which row belongs to each example of a data set
  keys       ids as 16 bytes each, and the row of each
rows         the joined rows as batches, which the cache's builder reads
"""
