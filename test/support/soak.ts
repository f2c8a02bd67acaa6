/** Whether everything is tried at full length, which takes an hour: what `make soak` runs. */
export const isSoak = process.env.SOAK === 'true';
