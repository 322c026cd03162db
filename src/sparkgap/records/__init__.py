"""Training data in the files of other tools: TFRecord, WebDataset, LMDB, MDS, folders of images. Reading and writing."""
