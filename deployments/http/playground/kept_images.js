// Finished images, kept in this browser beyond a reload: the newest ones, up to a number and a total size.

export const MAX_IMAGES = 100;
export const MAX_BYTES = 200e6;

// Endpoints below different paths of one host share its databases.
const NAME = `zimage-playground ${location.pathname}`;
const STORE = "images";

const answered = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

const committed = (transaction) => new Promise((resolve, reject) => {
  transaction.oncomplete = resolve;
  transaction.onabort = () => reject(transaction.error); // such as a full disk
});

let opened;

async function images(mode) {
  opened ??= (async () => {
    const opening = indexedDB.open(NAME, 1); // an error where pages may store nothing
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    return answered(opening);
  })();
  return (await opened).transaction(STORE, mode).objectStore(STORE);
}

const numBytes = ({ image, pictures }) => [image, ...pictures].reduce((sum, blob) => sum + blob.size, 0);

/** Return all kept images, oldest first. */
export const keptImages = async () => answered((await images("readonly")).getAll());

/** Keep an image, { image, pictures, ... } with its blobs, and drop the oldest beyond the bounds; return its id. */
export async function keep(image) {
  const store = await images("readwrite");
  const id = await answered(store.put(image));
  let left = MAX_BYTES;
  for (const [index, other] of (await answered(store.getAll())).reverse().entries()) {
    left -= numBytes(other);
    if (index >= MAX_IMAGES || left < 0) store.delete(other.id);
  }
  await committed(store.transaction);
  return id;
}

export async function drop(id) {
  const store = await images("readwrite");
  store.delete(id);
  await committed(store.transaction);
}

export async function dropAll() {
  const store = await images("readwrite");
  store.clear();
  await committed(store.transaction);
}
